"""One file a method; names only, so that listing imports nothing."""

BUILTIN = {
    "byol": "sciencessl.methods.byol:Byol",
    "ccsl": "sciencessl.methods.self_labelling:Ccsl",
    "cssl": "sciencessl.methods.self_labelling:Cssl",
    "labels_only": "sciencessl.methods.labels_only:LabelsOnly",
    "msbreg": "sciencessl.methods.msbreg:Msbreg",
    "swav": "sciencessl.methods.swav:Swav",
    "tribyol": "sciencessl.methods.tribyol:Tribyol",
    "vssl": "sciencessl.methods.vssl:Vssl",
}
