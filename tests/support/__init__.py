"""What tests are made with: small checkpoints, GGUFs, servers, terminals, other programs."""
