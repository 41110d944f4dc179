"""The fast method: sampled points, a noise model, first poses, and a robust Gauss-Newton fit of all poses and focals together."""
