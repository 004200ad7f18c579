"""What tasks share that give a label to each sequence of frames of numbers, whatever the frames are made of."""
