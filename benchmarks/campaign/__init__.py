"""What the commands do when processes die, disks are full, and inputs are malformed or hostile."""
