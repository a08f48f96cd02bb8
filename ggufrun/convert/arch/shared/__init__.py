"""What several families share: the Family record, tensor tables, experts, positions, latent attention."""
