"""Picture and sentences in, maps of the sentences' words out: the diffusion model's attention."""
