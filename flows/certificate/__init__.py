"""The certificate as a record: computed, checked again, held against the gate, compared with earlier ones."""
