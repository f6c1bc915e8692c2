"""What is fast, and by how much: each module is a command, each contender a fresh process."""
