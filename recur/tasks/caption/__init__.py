"""`recur train caption`: images and frames to captions, or to a label for each frame."""
