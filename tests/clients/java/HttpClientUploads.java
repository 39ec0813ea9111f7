import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.Arrays;
import java.util.Random;

/**
 * The client of the JDK, which offers HTTP/2 (Upgrade: h2c) to every plain server and reuses its connection at once.
 *
 * Usage: java HttpClientUploads.java URL-OF-FILES ROUNDS
 */
public final class HttpClientUploads {
    private static final int CHUNK = 1000;

    private final HttpClient client;
    private final URI files;

    private HttpClientUploads(HttpClient client, URI files) {
        this.client = client;
        this.files = files;
    }

    public static void main(String[] arguments) throws Exception {
        URI files = URI.create(arguments[0]);
        int rounds = Integer.parseInt(arguments[1]);
        for (HttpClient.Version version : HttpClient.Version.values()) {
            HttpClient client = HttpClient.newBuilder().version(version).build();
            var uploads = new HttpClientUploads(client, files);
            for (int round = 0; round < rounds; round++) {
                uploads.upload(new Random(round));
            }
            System.out.println(version + ": " + rounds + " uploads");
        }
    }

    private void upload(Random random) throws Exception {
        byte[] content = new byte[3 * CHUNK];
        random.nextBytes(content);
        var created = send(tus(files).header("Upload-Length", "" + content.length).POST(BodyPublishers.noBody()), 201);
        URI upload = files.resolve(created.headers().firstValue("Location").orElseThrow());
        for (int at = 0; at < content.length; at += CHUNK) {
            byte[] chunk = Arrays.copyOfRange(content, at, at + CHUNK);
            send(patch(upload, at, BodyPublishers.ofByteArray(chunk)), 204);
        }
        // Of unknown size, and empty: the client learns only now that nothing is left.
        send(patch(upload, content.length, BodyPublishers.fromPublisher(BodyPublishers.noBody())), 204);
        byte[] stored = send(HttpRequest.newBuilder(upload).GET(), 200).body();
        if (!Arrays.equals(stored, content)) {
            throw new AssertionError("the server has other bytes");
        }
    }

    private HttpRequest.Builder patch(URI upload, int at, HttpRequest.BodyPublisher body) {
        return tus(upload)
                .header("Upload-Offset", "" + at)
                .header("Content-Type", "application/offset+octet-stream")
                .method("PATCH", body);
    }

    private static HttpRequest.Builder tus(URI uri) {
        return HttpRequest.newBuilder(uri).header("Tus-Resumable", "1.0.0");
    }

    private HttpResponse<byte[]> send(HttpRequest.Builder request, int expected) throws Exception {
        HttpResponse<byte[]> response = client.send(request.build(), BodyHandlers.ofByteArray());
        if (response.statusCode() != expected) {
            throw new AssertionError(response + " with " + new String(response.body()) + ", expected " + expected);
        }
        return response;
    }
}
