"""Train networks: objective, optimizer and the loop that resumes."""
