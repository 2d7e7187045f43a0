"""Reports for people: sentences, tables, curves, the model card, the review page."""
