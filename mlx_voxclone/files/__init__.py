"""Files and texts of users and of other programs: names, JSON, YAML, the hub, the cache."""
