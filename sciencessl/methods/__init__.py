"""One file a method; names only, so that listing imports nothing."""

BUILTIN = {
    "byol": "sciencessl.methods.byol:Byol",
    "dino": "sciencessl.methods.dino:Dino",
    "er_byol": "sciencessl.methods.er:ErByol",
    "er_dino": "sciencessl.methods.er:ErDino",
    "er_simclr": "sciencessl.methods.er:ErSimclr",
    "labels_only": "sciencessl.methods.labels_only:LabelsOnly",
    "swav": "sciencessl.methods.swav:Swav",
}
