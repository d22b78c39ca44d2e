"""The assignment: its handout is made of this repository, and graded by it. May import everything; nothing imports it."""
