"""What each head and MLP of any vision transformer adds to its representation, and what that means in words."""
