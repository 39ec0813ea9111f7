import io.tus.java.client.TusClient;
import io.tus.java.client.TusUpload;
import io.tus.java.client.TusURLMemoryStore;
import io.tus.java.client.TusUploader;
import java.io.ByteArrayInputStream;
import java.net.URL;
import java.util.Arrays;
import java.util.Random;

/**
 * tus-java-client, which sends one request more than necessary for files whose size is a multiple of its payload size,
 * and for empty files.
 *
 * Usage: java -cp 'JARS/*' TusJavaClient.java URL-OF-FILES
 */
public final class TusJavaClient {
    private static final int PAYLOAD = 64 * 1024;

    private TusJavaClient() {
    }

    public static void main(String[] arguments) throws Exception {
        TusClient client = new TusClient();
        client.setUploadCreationURL(new URL(arguments[0]));
        client.enableResuming(new TusURLMemoryStore());
        for (int size : new int[] {0, 1, PAYLOAD - 1, PAYLOAD, PAYLOAD + 1, 2 * PAYLOAD, 3 * PAYLOAD + 7}) {
            upload(client, size);
            System.out.println(size + " bytes");
        }
    }

    private static void upload(TusClient client, int size) throws Exception {
        byte[] content = new byte[size];
        new Random(size).nextBytes(content);
        TusUpload upload = new TusUpload();
        upload.setSize(size);
        upload.setInputStream(new ByteArrayInputStream(content));
        upload.setFingerprint("of " + size);
        TusUploader uploader = client.resumeOrCreateUpload(upload);
        uploader.setChunkSize(16 * 1024);
        uploader.setRequestPayloadSize(PAYLOAD);
        while (uploader.uploadChunk() > -1) {
            // Until the input has ended.
        }
        uploader.finish();
        byte[] stored = uploader.getUploadURL().openStream().readAllBytes();
        if (!Arrays.equals(stored, content)) {
            throw new AssertionError(size + " bytes: the server has other ones");
        }
    }
}
