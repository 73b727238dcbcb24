"""What our users could pick instead, written here from its description."""
