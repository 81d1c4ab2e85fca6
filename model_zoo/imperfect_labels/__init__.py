"""Training mmdet heads from labels that are uncertain, incomplete or both.

Four things that the stock losses cannot express (the method, step 6):

- **class weight** w of a box: the class loss of every prior (anchor or point)
  that the head assigned to the box is multiplied by w, and so is its positive
  objectness;
- **box weight** b of a box: its box, L1 and centerness losses are multiplied
  by b;
- **ignore region** of class c: priors in it have no negative loss of c; other
  classes are trained as usual;
- **unspoken class** c on an image: no negative loss of c at priors that touch
  the image.

Both leave open whether there is a c, neither doubts a box of c that is there:
priors assigned to it train as everywhere. (Regions of uncertain boxes overlap
sure boxes of the same class in crowds; leaving those priors out, as mmdet's
assigners do, would cost the sure boxes.)

Class losses are divided by the sum of class weights over the positives, box
losses by the sum of box weights, where the stock head divides by their number.
With all weights 1, no region and nothing unspoken, losses and gradients equal
the stock head's bit by bit.

When a prior is *in* an ignore region is decided as the head decides which
prior is responsible for an object there:

- anchors: more than half of the anchor's area lies in the region, or the
  head's own assigner would not make it background were the region an object;
- points: the point lies in the region, or its cell holds the region's centre
  (a region smaller than a cell would otherwise contain no point).

YOLOX's objectness stands for all classes at once. A background prior where any
class is ignored or unspoken therefore gets no objectness loss. So that the
other classes still learn background there, their score o * k (objectness o,
class probability k) is lowered through k alone: the added loss is
-o' log(1 - k) with o' = o without gradient.

`enable` makes a built head learn so. The mechanism is one mixin around the
head's own `loss_by_feat`: the head assigns, the mixin looks up which box each
prior was given to, and the head's loss modules multiply by the weights. Heads
differ only in where the assignment can be read and in how rows are ordered.
"""

from model_zoo.imperfect_labels.heads import SUPPORTED_HEADS, enable

__all__ = ["SUPPORTED_HEADS", "enable"]
