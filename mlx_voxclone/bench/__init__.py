"""How fast, and with how much memory: what `voxclone bench` measures on the machine that it runs on."""
