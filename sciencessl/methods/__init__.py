"""One file a method; names only, so that listing imports nothing."""

BUILTIN = {
    "byol": "sciencessl.methods.byol:Byol",
    "labels_only": "sciencessl.methods.labels_only:LabelsOnly",
    "simclr": "sciencessl.methods.simclr:Simclr",
    "simsiam": "sciencessl.methods.simsiam:Simsiam",
    "swav": "sciencessl.methods.swav:Swav",
}
