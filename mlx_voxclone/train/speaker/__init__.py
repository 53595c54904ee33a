"""The language model's training: adapters for a speaker or a language."""
