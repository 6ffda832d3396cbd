"""Two hands that do not pass through each other: collision, noise schedule, guided sampling."""
