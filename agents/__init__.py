"""What an agent is: its loop, its prompts, the grounding of what it says, and the Ray actor that hosts it."""
