"""One file a method; names only, so that listing imports nothing."""

BUILTIN = {
    "byol": "sciencessl.methods.byol:Byol",
    "cnn_jepa": "sciencessl.methods.cnn_jepa:CnnJepa",
    "labels_only": "sciencessl.methods.labels_only:LabelsOnly",
    "swav": "sciencessl.methods.swav:Swav",
}
