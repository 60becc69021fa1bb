"""What makes passes faster on GPUs, and how far its maps are from those of float32."""
