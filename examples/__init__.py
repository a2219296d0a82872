"""Programs to read and to start: each is complete and uses the public interface only."""
