"""What runs beyond the fence: standard library only, because only this folder is visible inside bubblewrap."""
