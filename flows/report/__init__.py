"""What a person reads: sentences, tables, curves, the model card, the review page."""
