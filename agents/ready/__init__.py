"""What the ready graphs call between their prompts: small decisions that no model is trusted with."""
