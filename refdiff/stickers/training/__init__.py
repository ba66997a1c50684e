"""How the sticker models and scenes are made; never imported when refdiff is used."""
