"""How far partitioned smoothing certifies, against one ensemble and against partitions without noise."""
