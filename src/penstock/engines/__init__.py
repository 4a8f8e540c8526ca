"""What the engines need of us: a directory to configure themselves from, and loaders that they take for their own."""
