"""What figures are made of: intervals over clips, errors of cameras by clip, what two runs differ by."""
