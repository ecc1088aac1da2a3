"""The built-in domains, as strings: listing them imports nothing."""

BUILTIN = {
    "galaxy": "sciencessl.domains.galaxy:SPEC",
    "pathology": "sciencessl.domains.pathology:SPEC",
    "web": "sciencessl.domains.web:SPEC",
}
