"""Where results go: each module writes one kind of object for one shard and returns its digest."""
