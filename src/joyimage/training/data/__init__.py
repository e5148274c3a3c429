"""Read training pairs: folders, tables and shards of several programs, checked before anything is loaded."""
