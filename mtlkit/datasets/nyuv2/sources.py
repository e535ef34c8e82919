"""Where to get the forms of NYUv2 and its normals. This module downloads nothing."""

FILE = "nyu_depth_v2_labeled.mat"
PAGE = "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html"
META = "https://github.com/ankurhanda/nyuv2-meta-data"  #: splits.mat and the classes
MTAN = "https://www.dropbox.com/sh/86nssgwm6hm3vkb/AACrnUQ4GxpdrBbLjb6n-mWNa"  #: about 9 GB
ASTMT = "https://drive.google.com/file/d/14EAEMXmd3zs2hIMY63UhHPSFPDAkiTzw"  #: InvPT's files
#: Normals; Eigen's own page has been offline since November 2022.
EIGEN = "normals_gt.tgz of https://web.archive.org/web/20220412033406/https://cs.nyu.edu/~deigen/dnl/"
LADICKY = "https://www.dropbox.com/s/dn5sxhlgml78l03/nyu_normals_gt.zip"

#: By the option `form`: a description, and where to get it.
FORMS = {
    "official": f"{FILE} (from {PAGE})",
    "mtan": f"train/image and val/image (MTAN's and LibMTL's arrays, from {MTAN})",
    "astmt": f"gt_sets and images (the folders of ASTMT, Vandenhende, ATRC or InvPT, InvPT's from {ASTMT})",
}
