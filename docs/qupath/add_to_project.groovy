// Adds an H&E slide, its virtual stain and the cells of `restain quantify` to the project that is open in QuPath.
// Automate > Script editor > Run. Written for QuPath 0.4 and later.

import java.awt.image.BufferedImage
import qupath.lib.gui.commands.ProjectCommands
import qupath.lib.images.ImageData.ImageType
import qupath.lib.images.servers.ImageServerProvider
import qupath.lib.io.PathIO

def he = '/slides/case.svs'
def virtual = '/stained/case.ome.tif'
def cells = '/quantified/case.geojson'   // '' where there are none

def project = getProject()
if (project == null) {
    println 'Open or create a project first.'
    return
}

def add = { String path, ImageType type, String objects ->
    def file = new File(path)
    def support = ImageServerProvider.getPreferredUriImageSupport(BufferedImage.class, file.toURI().toString())
    if (!file.exists() || support == null || support.builders.isEmpty()) {
        println "QuPath cannot open ${path}"
        return
    }
    def entry = project.addImage(support.builders.get(0))
    entry.setImageName(file.getName())
    def data = entry.readImageData()
    data.setImageType(type)
    if (objects)
        data.getHierarchy().addObjects(PathIO.readObjects(new File(objects).toPath()))
    entry.setThumbnail(ProjectCommands.getThumbnailRGB(data.getServer()))
    entry.saveImageData(data)
    println "Added ${file.getName()}"
}

add(he, ImageType.BRIGHTFIELD_H_E, '')
add(virtual, ImageType.BRIGHTFIELD_H_DAB, cells)
project.syncChanges()
getQuPath()?.refreshProject()
