"""Encoders: a name and a number of channels give a module that maps images to one vector each."""
