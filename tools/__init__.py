"""What keeps derived files derived."""
