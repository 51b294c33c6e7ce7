"""Change: ``ChangeResult`` as SR, pictures, flicker and Segmentations."""
