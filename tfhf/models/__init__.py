"""Ports of published models, one folder each: config, model, convert, and processor or tokenizer."""
