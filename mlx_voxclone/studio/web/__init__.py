"""What all pages of the studio share: templates, texts, access, sounds."""
