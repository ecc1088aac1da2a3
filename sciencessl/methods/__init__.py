"""One file a method; names only, so that listing imports nothing."""

BUILTIN = {
    "byol": "sciencessl.methods.byol:Byol",
    "dino": "sciencessl.methods.dino:Dino",
    "directcopy": "sciencessl.methods.closed_form:DirectCopy",
    "directpred": "sciencessl.methods.closed_form:DirectPred",
    "directset": "sciencessl.methods.closed_form:DirectSet",
    "er_byol": "sciencessl.methods.er:ErByol",
    "er_dino": "sciencessl.methods.er:ErDino",
    "er_simclr": "sciencessl.methods.er:ErSimclr",
    "labels_only": "sciencessl.methods.labels_only:LabelsOnly",
    "lrp": "sciencessl.methods.closed_form:Lrp",
    "ne": "sciencessl.methods.closed_form:Ne",
    "ns": "sciencessl.methods.closed_form:Ns",
    "ns2": "sciencessl.methods.closed_form:Ns2",
    "simclr": "sciencessl.methods.simclr:Simclr",
    "simsiam": "sciencessl.methods.simsiam:Simsiam",
    "stiefel": "sciencessl.methods.closed_form:Stiefel",
    "swav": "sciencessl.methods.swav:Swav",
    "tribyol": "sciencessl.methods.tribyol:Tribyol",
    "univip": "sciencessl.methods.univip:Univip",
    "visser": "sciencessl.methods.closed_form:Visser",
}
