"""The certificate as a record: compute it, check it again, judge it by the gate, compare it with earlier ones."""
