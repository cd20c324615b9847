"""Models as Serve deployments, and the handles through which the platform reaches them."""
