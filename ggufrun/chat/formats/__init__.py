"""What a prompt is: affixes, published styles, Jinja templates, and the choice between them."""
