"""RealEstate10K in the four shapes in which people have it: files, tars, tables and chunks."""

from jog3r.data.realestate10k.chunks import RealEstate10KChunks
from jog3r.data.realestate10k.files import RealEstate10K
from jog3r.data.realestate10k.table import RealEstate10KTable
from jog3r.data.realestate10k.tars import RealEstate10KTars

__all__ = ["RealEstate10K", "RealEstate10KChunks", "RealEstate10KTable", "RealEstate10KTars"]
