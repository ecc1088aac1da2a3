"""The verbs of the command line, by what they act on: for each a `fill_X` that adds its arguments and a `run_X`.

`run_X` calls the function of the same meaning, prints what came back and returns an exit code; no other logic lives
here. `sciencessl/cli.py` lists them. All of these modules load before a command starts, so that what computes is
imported inside `run_X`.
"""
