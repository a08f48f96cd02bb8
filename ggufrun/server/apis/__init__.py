"""What each API says and understands: endpoints, translations, and what the front does itself."""
