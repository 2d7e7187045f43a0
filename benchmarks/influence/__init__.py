"""What bounded-influence heads certify, beside votes, partitions and nearest neighbours."""
