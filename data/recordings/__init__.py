"""What a recording may be (a video file, an animated picture, a folder of pictures), and its frames with their times."""
