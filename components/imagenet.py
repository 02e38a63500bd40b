"""Statistics of ImageNet, by which crops of training and images of evaluation are normalised alike."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Of red, green and blue in 0..1."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Their standard deviations."""
