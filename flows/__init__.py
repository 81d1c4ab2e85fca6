"""What a person, a schedule or an event starts, and the command line."""
