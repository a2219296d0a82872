"""What a server says about itself: its log."""
