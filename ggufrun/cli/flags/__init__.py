"""Records of flags that several commands share, and what they mean to the rooms below."""
